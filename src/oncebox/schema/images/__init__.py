"""Images of a canonical schema in other formats: Avro, Protobuf, JSON Schema."""
