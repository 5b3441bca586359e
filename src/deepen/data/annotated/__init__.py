"""Sets with boxes or masks: Pascal VOC, COCO, tables, masks of classes, localization."""
