"""Documents to one tokenised dataset: planned, cut into shards, encoded by workers, joined."""
