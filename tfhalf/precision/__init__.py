"""Numbers: dtype policies and float32 islands, the guarded loss scale, the float16 format itself."""
