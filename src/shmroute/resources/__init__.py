"""Watched kinds: their objects as values, and the rules for a valid object.

    registry        the only list of kinds: path, parser and table of each
    key             an object's key, and safe decoding of JSON
    appmodel        AppModels; `appmodel_rules` has their rules and the texts of problems
    endpointslice   EndpointSlices
    table           declared tables as kinds: `table_definition` is the form of a tables file, `table_parser` makes rows
                    of objects, `field_selector` selects them

All modules are pure: no I/O, no clock.
"""
