//! The composition root: what ties the modules together, and the only place that spawns tasks.
