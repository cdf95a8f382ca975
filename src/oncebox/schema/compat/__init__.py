"""Whether readers of one schema can read what writers of another wrote; each "no" with a proof.

One checker per format (`avro`, `protobuf`, `jsonschema`), one result for all of them. Pure.
"""
