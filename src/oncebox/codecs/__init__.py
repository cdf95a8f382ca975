"""Events as bytes: JSON, Avro, Protobuf; their framing; and the bounds of every decoder."""
