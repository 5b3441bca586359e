"""Pictures in: decoding, sources, order, augmentation."""
