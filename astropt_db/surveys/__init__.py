"""Other surveys: any catalogue with positions into a typed table, and its match with Euclid."""
