"""The stages: ingest, measure, select, pack, report."""
