//! Node problem detection: log monitors, custom plugins, health checks, conditions and events.
