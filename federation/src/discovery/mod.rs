//! From a server's name to an address and a name for its certificate (SS "Resolving server names").
