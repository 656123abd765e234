"""Steps that choose among good documents: a part of them by hash, and those that are held out of training."""
