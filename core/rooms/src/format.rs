//! Events as clients see them (CS "Room event format").
