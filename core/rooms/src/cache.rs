//! Bounded caches over events, state nodes, state-key ordinals and room heads. Events and nodes never
//! change once written but by redaction, which the writer announces here.
