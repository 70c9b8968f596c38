"""The drawn world: small scenes, what is asked about them, and the tiny LLaVA that learns them."""
