"""Files and texts of strangers: opened and read with care, shown without harm."""
