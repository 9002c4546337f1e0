//! Twins with one broken rule each.
