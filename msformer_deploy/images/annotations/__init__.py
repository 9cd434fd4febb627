"""Ground truth drawn in annotation tools: COCO and LabelMe files, painted as masks.

A LabelMe file belongs to one image. A COCO file holds many, so the mask of one of them has the path
``FILE/name of the image``, such as ``corrected.json/patient1/x.png``: it names the mask in messages, and
:func:`.painting.read` finds it.
"""
