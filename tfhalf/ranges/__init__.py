"""The numbers that a net has while it trains: measured by their exponents, and what float16 would make of them."""
