"""Between the contract's messages and the domain's nouns; a module a resource, no rules and no I/O."""
