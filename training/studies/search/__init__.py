"""Measure the search over photographs: rate of indexing, latency of a scan, recall of the stored types."""
