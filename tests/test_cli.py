def test_smoke(tiny_backbone, double_backbone, animals, train_tiny):
    print(tiny_backbone.encode_text(["a"]).dtype, double_backbone.encode_text(["a"]).dtype)
    print(tiny_backbone.fingerprint, tiny_backbone.embed_dim)
    code, out, err = train_tiny(animals)
    print(out, err)
    assert code == 0
