"""What leaves the database: exports, pictures, the report."""
