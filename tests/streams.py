"""Serve streams from the scriptable site: their segments are `/0.m4s`, `/1.m4s` and so on."""

from tests.faulty_site import FaultySite

HLS, DASH = "/stream.m3u8", "/stream.mpd"


def serve_hls(
    site: FaultySite, segments: list[bytes], *, init: bytes = b"", seconds: float = 0.4
) -> None:
    """Serve an HLS stream of these segments. `init` is the initial section of fragmented MP4."""
    _serve_segments(site, segments, init)
    lines = "".join(f"#EXTINF:{seconds},\n{number}.m4s\n" for number in range(len(segments)))
    begin = '#EXT-X-MAP:URI="init.mp4"\n' if init else ""
    text = f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n{begin}{lines}#EXT-X-ENDLIST\n"
    site.pages[HLS] = ("application/vnd.apple.mpegurl", text.encode())


def serve_dash(
    site: FaultySite, segments: list[bytes], *, init: bytes, seconds: float = 0.4
) -> None:
    """Serve a DASH stream of these segments."""
    _serve_segments(site, segments, init)
    urls = "".join(f'<SegmentURL media="{number}.m4s"/>' for number in range(len(segments)))
    text = f"""<?xml version="1.0"?>
        <MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
             mediaPresentationDuration="PT{seconds * len(segments)}S"
             profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>
          <AdaptationSet mimeType="video/mp4" codecs="mp4v.20.9">
           <Representation id="1" bandwidth="100000" width="64" height="36">
            <SegmentList timescale="1000" duration="{round(seconds * 1000)}">
             <Initialization sourceURL="init.mp4"/>{urls}</SegmentList>
        </Representation></AdaptationSet></Period></MPD>"""
    site.pages[DASH] = ("application/dash+xml", text.encode())


def _serve_segments(site: FaultySite, segments: list[bytes], init: bytes) -> None:
    site.pages["/init.mp4"] = ("video/mp4", init)
    site.pages |= {
        f"/{number}.m4s": ("video/mp4", segment) for number, segment in enumerate(segments)
    }
