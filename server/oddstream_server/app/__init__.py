"""The composition root: what each process is made of. The only package that sees everything."""
