"""Decision makers a learned router has to beat; each returns a `RouteBatch`, scored by the one scoring function."""
