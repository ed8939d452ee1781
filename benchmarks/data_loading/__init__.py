"""Samples a second, and seconds to resume: mmfm's pipeline beside three public loaders.

    python -m benchmarks.data_loading                        # everything: takes hours on two cores
    python -m benchmarks.data_loading --sets jpeg512 --peers webdataset --repeats 5

Peers: webdataset (`WebDataset`, `WebLoader`), mosaicml-streaming (`StreamingDataset` on MDS shards
converted from the same tars) and megatron-energon (its savable loader on the same tars), each used
as its documentation shows. The latter two don't fit into mmfm's environment; the command makes one
for each below --cache, where only what conflicts is installed, so that all use the same torch and
Pillow.

Sets: 64-pixel PNGs read at 64 pixels, and JPEGs of 512, 768 and 1,024 pixels read at 224. They are
drawings of Debian's openclipart-png (fetched with apt-get) on textured ground, or the ground alone
where there is no apt. All loaders resize the shortest side (bicubic) and cut out the middle, and
give normalised float32 batches of 64. "usual": a peer decodes with PIL and resizes with
torchvision; "mmfm": every peer gets mmfm's own decoding of a sample's bytes, so that only the
loaders differ.

Rates are of one pass over the set from the first batch on, in a process of its own for each
measurement, and peers take turns, so that a ratio compares neighbours in time. "cold": the tars
have left the page cache (of this machine; a virtual disk's host may still hold them). "2 ranks":
two processes with a share each, their rates summed. Resuming is timed from the loader's
construction to the first batch after 10, 50 and 90 % of an epoch; webdataset can't, so its samples
are skipped before they are decoded.
"""
