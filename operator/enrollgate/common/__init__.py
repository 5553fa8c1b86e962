"""Small tools that any layer may use. Imports the standard library and structlog only."""
