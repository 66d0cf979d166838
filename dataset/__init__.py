"""The contract between the rooms: records, media reading, Parquet tables, shards. Imports nothing of ours."""
