"""Pairs of .proto files, one for each rule of Buf's WIRE and WIRE_JSON categories and for what
they let pass: what has to be found, as "rule, who breaks", with a "?" behind mere warnings.
"""

from __future__ import annotations

P3, P2 = 'syntax = "proto3"; package p; ', 'syntax = "proto2"; package p; '
E3 = 'edition = "2023"; package p; '

CASES: dict[str, tuple[str, str, set[str]]] = {
    "nothing changed": ("message A { int32 x = 1; }", "message A { int32 x = 1; }", set()),
    "field added": ("message A { int32 x = 1; }", "message A { int32 x = 1; A y = 2; }", set()),
    # FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED, .._NAME_RESERVED
    "field removed": (
        "message A { int32 x = 1; int32 y = 2; }",
        "message A { int32 x = 1; }",
        {"field-removed-number-not-reserved? new", "field-removed-name-not-reserved? new"},
    ),
    "field removed, number reserved": (
        "message A { int32 x = 1; int32 y = 2; }",
        "message A { int32 x = 1; reserved 2; }",
        {"field-removed-name-not-reserved? new"},
    ),
    "field removed and reserved": (
        "message A { int32 x = 1; int32 y = 2; }",
        'message A { int32 x = 1; reserved 2; reserved "y"; }',
        set(),
    ),
    # RESERVED_MESSAGE_NO_DELETE, RESERVED_ENUM_NO_DELETE
    "reserved removed": (
        'message A { int32 x = 1; reserved 2 to 5, 9; reserved "y"; }',
        "message A { int32 x = 1; reserved 3 to 5, 9; }",
        {"reserved-removed? new"},
    ),
    "reserved in other ranges": (
        "message A { int32 x = 1; reserved 2 to 5; }",
        "message A { int32 x = 1; reserved 2 to 3, 4 to 9; }",
        set(),
    ),
    "reserved used again": (
        'message A { int32 x = 1; reserved 2; reserved "y"; }',
        "message A { int32 x = 1; int32 y = 2; }",
        {"reserved-removed? new", "reserved-used? old"},
    ),
    "reserved of an enum removed": (
        "message A { E e = 1; } enum E { Z = 0; reserved 3; }",
        "message A { E e = 1; } enum E { Z = 0; }",
        {"reserved-removed? new"},
    ),
    # FIELD_SAME_NAME, FIELD_SAME_JSON_NAME
    "field renamed": (
        "message A { string x = 1; }",
        "message A { string y = 1; }",
        {"field-renamed new", "field-renamed old"},
    ),
    "field renamed, JSON name kept": (
        "message A { string x = 1; }",
        'message A { string y = 1 [json_name = "x"]; }',
        set(),
    ),
    "JSON name changed": (
        "message A { string x = 1; }",
        'message A { string x = 1 [json_name = "y"]; }',
        {"field-renamed old"},
    ),
    "two names exchanged": (
        "message A { string x = 1; string y = 2; }",
        "message A { string y = 1; string x = 2; }",
        {"field-renumbered new", "field-renumbered old"},
    ),
    "number changed": (
        "message A { string x = 1; }",
        "message A { string x = 2; }",
        {"field-renumbered new", "field-renumbered old"},
    ),
    "number given to another": (
        "message A { string email = 4; }",
        "message A { string phone = 4; }",
        {"field-renamed new", "field-renamed old"},
    ),
    # FIELD_WIRE_COMPATIBLE_TYPE, FIELD_WIRE_JSON_COMPATIBLE_TYPE
    "int32 to int64": (
        "message A { int32 x = 1; }",
        "message A { int64 x = 1; }",
        {"field-type-changed old"},
    ),
    "int64 to int32": (
        "message A { int64 x = 1; }",
        "message A { int32 x = 1; }",
        {"field-type-changed new"},
    ),
    "uint32 to int32": (
        "message A { uint32 x = 1; }",
        "message A { int32 x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "uint32 to int64": (
        "message A { uint32 x = 1; }",
        "message A { int64 x = 1; }",
        {"field-type-changed old"},
    ),
    "int32 to sint32": (
        "message A { int32 x = 1; }",
        "message A { sint32 x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "fixed32 to sfixed32": (
        "message A { fixed32 x = 1; }",
        "message A { sfixed32 x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "float to fixed32": (
        "message A { float x = 1; }",
        "message A { fixed32 x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "float to double": (
        "message A { float x = 1; }",
        "message A { double x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "bool to int32": (
        "message A { bool x = 1; }",
        "message A { int32 x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "string to bytes": (
        "message A { string x = 1; }",
        "message A { bytes x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "string to message": (
        "message A { string x = 1; }",
        "message A { B x = 1; message B { string y = 1; } }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "message to bytes": (
        "message A { B x = 1; message B { string y = 1; } }",
        "message A { bytes x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "enum to int32": (
        "message A { E x = 1; } enum E { Z = 0; Y = 1; }",
        "message A { int32 x = 1; }",
        {"field-type-changed new"},
    ),
    "items": (
        "message A { repeated int64 x = 1; }",
        "message A { repeated int32 x = 1; }",
        {"field-type-changed new"},
    ),
    "values of a map": (
        "message A { map<string, int64> x = 1; }",
        "message A { map<string, int32> x = 1; }",
        {"field-type-changed new"},
    ),
    "keys of a map": (
        "message A { map<string, int64> x = 1; }",
        "message A { map<int32, int64> x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "message of another name": (
        "message A { B x = 1; message B { int32 y = 1; } }",
        "message A { C x = 1; message C { int32 y = 1; } }",
        set(),
    ),
    "message of another shape": (
        "message A { B x = 1; message B { int32 y = 1; } }",
        "message A { C x = 1; message C { string y = 1; } }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "inside a map": (
        "message A { map<int32, B> x = 1; message B { int64 y = 1; } }",
        "message A { map<int32, B> x = 1; message B { int32 y = 1; } }",
        {"field-type-changed new"},
    ),
    "inside a list": (
        "message A { repeated B x = 1; message B { int64 y = 1; } }",
        "message A { repeated B x = 1; message B { int32 y = 1; } }",
        {"field-type-changed new"},
    ),
    # FIELD_WIRE_COMPATIBLE_CARDINALITY, FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY
    "repeated to singular": (
        "message A { repeated string x = 1; }",
        "message A { string x = 1; }",
        {"field-cardinality-changed new", "field-cardinality-changed old"},
    ),
    "map to entries": (
        "message A { map<string, int32> x = 1; }",
        "message A { repeated B x = 1; message B { string key = 1; int32 value = 2; } }",
        {"field-cardinality-changed new", "field-cardinality-changed old"},
    ),
    "optional removed": (
        "message A { optional int32 x = 1; }",
        "message A { int32 x = 1; }",
        {"presence-changed? new", "presence-changed? old"},
    ),
    # FIELD_SAME_ONEOF
    "two fields into a oneof": (
        "message A { int32 x = 1; int32 y = 2; }",
        "message A { oneof o { int32 x = 1; int32 y = 2; } }",
        {"oneof-changed new"},
    ),
    "out of a oneof": (
        "message A { oneof o { int32 x = 1; int32 y = 2; } }",
        "message A { int32 x = 1; int32 y = 2; }",
        {"oneof-changed old"},
    ),
    "one field into a oneof of its own": (
        "message A { optional int32 x = 1; }",
        "message A { oneof o { int32 x = 1; } }",
        {"oneof-changed? new"},
    ),
    "one more in a oneof": (
        "message A { oneof o { int32 x = 1; } }",
        "message A { oneof o { int32 x = 1; int32 y = 2; } }",
        set(),
    ),
    # enums: ENUM_VALUE_NO_DELETE_UNLESS_*, ENUM_VALUE_SAME_NAME
    "value added": (
        "message A { E x = 1; } enum E { Z = 0; }",
        "message A { E x = 1; } enum E { Z = 0; Y = 1; }",
        {"enum-value-added? old"},
    ),
    "value removed": (
        "message A { E x = 1; } enum E { Z = 0; Y = 1; }",
        "message A { E x = 1; } enum E { Z = 0; }",
        {"enum-value-removed new"},
    ),
    "value removed, number reserved": (
        "message A { E x = 1; } enum E { Z = 0; Y = 1; }",
        "message A { E x = 1; } enum E { Z = 0; reserved 1; }",
        {"enum-value-removed new"},
    ),
    "value removed and reserved": (
        "message A { E x = 1; } enum E { Z = 0; Y = 1; }",
        'message A { E x = 1; } enum E { Z = 0; reserved 1; reserved "Y"; }',
        {"enum-value-removed-reserved? new"},
    ),
    "value renamed": (
        "message A { E x = 1; } enum E { Z = 0; Y = 1; }",
        "message A { E x = 1; } enum E { Z = 0; W = 1; }",
        {"enum-value-renamed new", "enum-value-renamed old"},
    ),
    "value renamed with alias": (
        "message A { E x = 1; } enum E { Z = 0; Y = 1; }",
        "message A { E x = 1; } enum E { option allow_alias = true; Z = 0; Y = 1; W = 1; }",
        set(),
    ),
    "values exchanged": (
        "message A { E x = 1; } enum E { Z = 0; Y = 1; X = 2; }",
        "message A { E x = 1; } enum E { Z = 0; X = 1; Y = 2; }",
        {"enum-value-renumbered new", "enum-value-renumbered old"},
    ),
    "number of a value changed": (
        "message A { E x = 1; } enum E { Z = 0; Y = 1; }",
        "message A { E x = 1; } enum E { Z = 0; Y = 2; }",
        {"enum-value-renumbered new", "enum-value-renumbered old"},
    ),
    "value of a map removed": (
        "message A { map<string, E> x = 1; } enum E { Z = 0; Y = 1; }",
        "message A { map<string, E> x = 1; } enum E { Z = 0; }",
        {"enum-value-removed new"},
    ),
    "value of a list removed": (
        "message A { repeated E x = 1; } enum E { Z = 0; Y = 1; }",
        "message A { repeated E x = 1; } enum E { Z = 0; }",
        {"enum-value-removed new"},
    ),
    # FILE_SAME_PACKAGE, messages
    "message removed": (
        "message A { int32 x = 1; } message B { int32 x = 1; }",
        "message A { int32 x = 1; }",
        {"message-removed new"},
    ),
    "inside a message that is nobody's field": (
        "message A { int32 x = 1; message B { int64 y = 1; } }",
        "message A { int32 x = 1; message B { int32 y = 1; } }",
        {"field-type-changed new"},
    ),
    # RPC_SAME_REQUEST_TYPE, _RESPONSE_TYPE, _CLIENT_STREAMING, _SERVER_STREAMING
    **{
        f"call: {what}": (
            "message A { int32 x = 1; } service S { rpc Do(A) returns (A); rpc Go(A) returns (A); }",
            f"message A {{ int32 x = 1; }} message B {{}} service S {{ rpc Do{call}; }}",
            {"call-changed? new", "call-changed? old"},
        )
        for what, call in {
            "request": "(B) returns (A)",
            "response": "(A) returns (B)",
            "client streams": "(stream A) returns (A)",
            "server streams": "(A) returns (stream A)",
        }.items()
    },
    "message added": (
        "message A { int32 x = 1; }",
        "message A { int32 x = 1; } message B { int32 x = 1; }",
        set(),
    ),
    "part renamed": (
        "message A { B x = 1; } message B { int32 y = 1; }",
        "message A { C x = 1; } message C { int32 y = 1; }",
        set(),
    ),
    "recursive": (
        "message A { repeated A x = 1; map<string, A> y = 2; int64 z = 3; }",
        "message A { repeated A x = 1; map<string, A> y = 2; int32 z = 3; }",
        {"field-type-changed new"},
    ),
}

KNOWN = "".join(
    f'import "google/protobuf/{name}.proto"; '
    for name in ("any", "duration", "timestamp", "wrappers")
)

WHOLE: dict[str, tuple[str, str, set[str]]] = {
    "package changed": (
        P3 + "message A { int32 x = 1; }",
        P3.replace("package p", "package q") + "message A { int32 x = 1; }",
        {"package-changed new", "package-changed old"},
    ),
    # well-known types have their own forms in ProtoJSON
    "timestamp becomes duration": (
        P3 + KNOWN + "message A { google.protobuf.Timestamp x = 1; }",
        P3 + KNOWN + "message A { google.protobuf.Duration x = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "timestamps in a map become a message": (
        P3 + KNOWN + "message A { map<string, google.protobuf.Timestamp> x = 1; }",
        P3 + KNOWN + "message A { map<string, M> x = 1; } message M { int64 seconds = 1; }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "any becomes a message of the same fields": (
        P3 + KNOWN + "message A { google.protobuf.Any x = 1; }",
        P3 + KNOWN + "message A { M x = 1; } message M { string url = 1; bytes value = 2; }",
        {"field-type-changed? new", "field-type-changed old"},
    ),
    "a message of messages becomes any": (
        P3 + KNOWN + "message A { M x = 1; } message M { A y = 1; }",
        P3 + KNOWN + "message A { google.protobuf.Any x = 1; } message M { A y = 1; }",
        {"field-type-changed? old", "field-type-changed new"},
    ),
    "any renamed": (
        P3 + KNOWN + "message A { google.protobuf.Any x = 1; }",
        P3 + KNOWN + "message A { google.protobuf.Any y = 1; }",
        {"field-renamed new", "field-renamed old"},
    ),
    "wrapper widened": (
        P3 + KNOWN + "message A { google.protobuf.Int32Value x = 1; }",
        P3 + KNOWN + "message A { google.protobuf.Int64Value x = 1; }",
        {"field-type-changed old"},
    ),
    # MESSAGE_SAME_REQUIRED_FIELDS
    "required added": (
        P2 + "message A { optional int32 x = 1; }",
        P2 + "message A { required int32 x = 1; }",
        {"required-changed new"},
    ),
    "required field added": (
        P2 + "message A { optional int32 x = 1; }",
        P2 + "message A { optional int32 x = 1; required int32 y = 2; }",
        {"required-changed new"},
    ),
    "required field removed": (
        P2 + "message A { required int32 x = 1; required int32 y = 2; }",
        P2 + 'message A { required int32 x = 1; reserved 2; reserved "y"; }',
        {"required-changed old"},
    ),
    # FIELD_SAME_DEFAULT
    "default changed": (
        P2 + "message A { optional int32 x = 1 [default = 3]; }",
        P2 + "message A { optional int32 x = 1 [default = 4]; }",
        {"default-changed new", "default-changed old"},
    ),
    "default NaN": (
        P2 + "message A { optional float x = 1 [default = nan]; }",
        P2 + "message A { optional float x = 1 [default = nan]; }",
        set(),
    ),
    "first value of a closed enum": (
        P2 + "message A { optional E x = 1; } enum E { Y = 1; Z = 2; }",
        P2 + "message A { optional E x = 1; } enum E { Z = 2; Y = 1; }",
        {"default-changed new", "default-changed old"},
    ),
    "group to message": (
        P2 + "message A { optional group B = 1 { optional int32 y = 1; } }",
        P2 + "message A { optional B b = 1; message B { optional int32 y = 1; } }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "number changed, of a list of what has one value": (
        P2 + "message A { repeated E x = 1; } enum E { Z = 0; }",
        P2 + "message A { optional E x = 2; } enum E { Z = 0; }",
        {"field-renumbered new", "field-renumbered old"},
    ),
    # RPC_SAME_IDEMPOTENCY_LEVEL
    "idempotency of a call": (
        P3 + "message A {} service S { rpc Do(A) returns (A); }",
        P3 + "message A {} service S { rpc Do(A) returns (A) "
        "{ option idempotency_level = IDEMPOTENT; } }",
        {"call-changed? new", "call-changed? old"},
    ),
    # ENUM_SAME_TYPE
    "enum closed": (
        P3 + "message A { optional E x = 1; } enum E { Z = 0; Y = 1; }",
        E3 + "message A { E x = 1; } enum E { option features.enum_type = CLOSED; Z = 0; Y = 1; }",
        {"enum-closed new"},
    ),
    "value added to a closed enum": (
        P2 + "message A { optional E x = 1; } enum E { Z = 0; Y = 1; }",
        P2 + "message A { optional E x = 1; } enum E { Z = 0; Y = 1; X = 2; }",
        {"enum-value-added-to-closed old"},
    ),
    # editions: features, not the syntax line
    "proto2 to edition 2023": (
        P2 + "message A { optional int32 x = 1; repeated int32 y = 2; }",
        E3 + "message A { int32 x = 1; repeated int32 y = 2 [features.repeated_field_encoding = "
        "EXPANDED]; }",
        set(),
    ),
    "proto3 to edition 2023": (
        P3 + "message A { optional int32 x = 1; string y = 2; }",
        E3 + "message A { int32 x = 1; string y = 2 [features.field_presence = IMPLICIT]; }",
        set(),
    ),
    "packed": (
        E3 + "message A { repeated int32 x = 1 [features.repeated_field_encoding = EXPANDED]; }",
        E3 + "message A { repeated int32 x = 1; }",
        set(),
    ),
    "delimited": (
        E3 + "message A { B x = 1; message B { int32 y = 1; } }",
        E3 + "message A { B x = 1 [features.message_encoding = DELIMITED]; "
        "message B { int32 y = 1; } }",
        {"field-type-changed new", "field-type-changed old"},
    ),
    "required by feature": (
        E3 + "message A { int32 x = 1; }",
        E3 + "message A { int32 x = 1 [features.field_presence = LEGACY_REQUIRED]; }",
        {"required-changed new"},
    ),
    "presence for the whole file": (
        E3 + "message A { int32 x = 1; }",
        E3 + "option features.field_presence = IMPLICIT; message A { int32 x = 1; }",
        {"presence-changed? new", "presence-changed? old"},
    ),
    "UTF-8 not verified": (
        E3 + "message A { string x = 1 [features.utf8_validation = NONE]; }",
        E3 + "message A { string x = 1; }",
        {"utf8-validation-changed? new"},
    ),
    # MESSAGE_SAME_JSON_FORMAT, ENUM_SAME_JSON_FORMAT, MESSAGE_SAME_MESSAGE_SET_WIRE_FORMAT
    "JSON not promised": (
        E3 + "message A { int32 x = 1; }",
        E3 + "message A { option features.json_format = LEGACY_BEST_EFFORT; int32 x = 1; }",
        {"json-format-changed? new"},
    ),
    "JSON of an enum not promised": (
        E3 + "message A { E x = 1; } enum E { Z = 0; }",
        E3 + "message A { E x = 1; } enum E { option features.json_format = LEGACY_BEST_EFFORT; "
        "Z = 0; }",
        {"json-format-changed? new"},
    ),
    "message set": (
        P2 + "message A { extensions 4 to max; }",
        P2 + "message A { option message_set_wire_format = true; extensions 4 to max; }",
        {"message-set-changed? new", "message-set-changed? old"},
    ),
    **{f"proto3: {name}": (P3 + old, P3 + new, found) for name, (old, new, found) in CASES.items()},
}
