//! Pure object machinery over JSON: schemas, defaulting, pruning, validation, CEL, patches, server-side apply, tables.
