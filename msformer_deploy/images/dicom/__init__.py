"""DICOM in: objects of one frame as pictures, series and objects of several frames as volumes.

No text of a header leaves this room: names, identifiers, dates and descriptions are never shown, and lines of our own
replace what pydicom says of damaged values.
"""
