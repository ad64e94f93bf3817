"""``records:PATH``: images and labels in shards of records, read one at a time from where they lie."""
