//! What engines rely on in the bytes.
