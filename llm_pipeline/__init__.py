"""What Dagster and people touch: definitions, components, automation, command line."""
