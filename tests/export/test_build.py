def test_tiny(tiny_bundle):
    print(tiny_bundle.manifest["validation"])
