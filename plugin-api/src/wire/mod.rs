//! JSON, field for field as engines send it.
