//! Walks, compares and follows a real directory tree.
