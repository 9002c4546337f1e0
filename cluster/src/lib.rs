//! Agreement between hosts: one small trait over key-value stores.
