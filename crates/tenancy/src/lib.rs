//! Tenants, ownership, quota and isolation: implements the API server's hooks.
