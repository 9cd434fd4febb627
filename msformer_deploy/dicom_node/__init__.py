"""A DICOM node: it takes series over the network, segments them, and sends the results on.

``receiver`` takes instances, ``spool`` keeps them on disk, ``answer`` segments a series, ``destinations`` send, and
``node`` runs all of it until it is told to stop.
"""
