"""The course: chapters, lectures of all types, captions, files, and what they contain."""

from dataclasses import dataclass, field
from pathlib import Path

from tests.media import make_document, make_media, ts_segment

COURSE_ID = 4242
TITLE = "Pottery <for> beginners"
ARTICLE = "<p>Clay shrinks by <b>12 %</b>.</p><script>document.title = 'hacked'</script>"
LINK = "https://clay.example.org/wheels?size=2"


def captions(language: str, lecture: int) -> bytes:
    """Return a WebVTT file (https://www.w3.org/TR/webvtt1/)."""
    return (
        f"WEBVTT\n\n00:00:00.000 --> 00:00:00.900\n{language} captions of lecture {lecture}\n"
    ).encode()


@dataclass(frozen=True)
class Lecture:
    """One element of the curriculum that is a lecture."""

    id: int
    title: str
    asset_type: str = "Video"
    # Renditions by their height, as files of the host of videos.
    mp4: dict[str, str] = field(default_factory=dict)
    hls: str = ""
    drm: bool = False
    # Language -> (file, "manual" or "auto").
    captions: dict[str, tuple[str, str]] = field(default_factory=dict)
    attachments: tuple[int, ...] = ()
    description: str = ""


LECTURES = {
    each.id: each
    for each in (
        Lecture(
            11,
            "Choosing the clay",
            mp4={"1080": "choosing-1080.mp4", "720": "choosing-720.mp4"},
            captions={
                "en_US": ("choosing-en.vtt", "manual"),
                "vi_VN": ("choosing-vi.vtt", "manual"),
                "es_ES": ("choosing-es.vtt", "auto"),
            },
            attachments=(501, 502, 503),
            description="<p>Stoneware or <i>porcelain</i>?</p>",
        ),
        Lecture(12, "Centring", hls="centring", captions={"en_US": ("centring-en.vtt", "manual")}),
        Lecture(13, "Words of the trade", "Article"),
        Lecture(21, "Glazing & firing", mp4={"720": "glazing-720.mp4"}, attachments=(504,)),
        Lecture(22, "The book", "E-Book"),
        Lecture(23, "Protected", drm=True, attachments=(505,)),
    )
}
# The `asset` of a lecture has the lecture's id and 1000 more.
FILES = {
    501: ("File", "slides.pdf"),
    502: ("ExternalLink", "Where to buy a wheel"),
    503: ("SourceCode", "templates.zip"),
    504: ("File", "glazes.pdf"),
    505: ("File", "safety.pdf"),
    1022: ("E-Book", "book.pdf"),
}


def write_files(root: Path) -> dict[str, bytes]:
    """Write the files of all hosts below a folder. Returns the contents by their names."""
    files = {
        "choosing-1080.mp4": make_media("mp4", 1, 11),
        "choosing-720.mp4": make_media("mp4", 1, 12),
        "glazing-720.mp4": make_media("mp4", 1, 21),
        "choosing-en.vtt": captions("English", 11),
        "choosing-vi.vtt": captions("Vietnamese", 11),
        "choosing-es.vtt": captions("Spanish", 11),
        "centring-en.vtt": captions("English", 12),
        "thumbnail.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(200) + b"\xff\xd9",
        "slides.pdf": make_document("pdf", 1),
        "templates.zip": make_document("zip", 3),
        "glazes.pdf": make_document("pdf", 4),
        "safety.pdf": make_document("pdf", 5),
        "book.pdf": make_document("pdf", 6),
    }
    segments = [ts_segment(20_000, seed, 1) for seed in (1, 2)]
    playlist = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n"
    playlist += "".join(f"#EXTINF:1,\n{number}.ts\n" for number in range(2)) + "#EXT-X-ENDLIST\n"
    hls = {f"hls/centring/{number}.ts": each for number, each in enumerate(segments)}
    hls["hls/centring/index.m3u8"] = playlist.encode()
    for name, content in (files | hls).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files
