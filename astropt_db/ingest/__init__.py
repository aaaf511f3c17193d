"""Files into tables: recognition, validation, bulk loading, quarantine and provenance."""
