"""One file per source; each hands over `tfhalf.data.check.Arrays` and imports its library when it is read."""
