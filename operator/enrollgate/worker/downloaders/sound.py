"""Keep only the sound of a lecture, bit by bit as the site sent it.

Many sites send picture and sound in one file. The sound is copied out of it by PyAV, which carries
FFmpeg's libraries: no other program runs, and nothing is encoded again.
"""

from pathlib import Path

import av
from av.error import FFmpegError

from enrollgate.domain.reasons import Failure, Reason
from enrollgate.worker.course import OnFetched
from enrollgate.worker.file_types import Family, recognise_file

# The file format for a codec, as players expect it. Matroska takes any other.
_FORMATS = {
    "aac": "m4a",
    "alac": "m4a",
    "mp3": "mp3",
    "opus": "ogg",
    "vorbis": "ogg",
    "flac": "flac",
}
_CONTAINERS = {"m4a": "ipod", "mka": "matroska"}


def keep_sound(file: Path, on_bytes: OnFetched) -> Path:
    """Return a file with the sound of this one, or this one if it has no picture or no sound.

    The other file is removed. Raises Failure (IncompleteDownload) if it cannot be read to its end.
    """
    try:
        kind = recognise_file(file)
        if kind.family is not Family.MEDIA:
            return file  # it will be refused
        # As a stream of a fixed format, so that no playlist in the file makes FFmpeg open another.
        with file.open("rb") as stream, av.open(stream, "r", format=kind.demuxer) as source:
            pictures = [
                each
                for each in source.streams.video
                if not each.disposition & av.stream.Disposition.attached_pic  # a cover
            ]
            if not pictures or not source.streams.audio:
                return file
            sound = source.streams.audio[0]
            extension = _FORMATS.get(sound.codec_context.name, "mka")
            target = file.with_name(f"{file.stem}.sound.{extension}")
            size = 2 * file.stat().st_size
            on_bytes(size, size)
            container = _CONTAINERS.get(extension, extension)
            with av.open(str(target), "w", format=container) as output:
                copy = output.add_stream_from_template(sound)
                for packet in source.demux(sound):
                    if packet.dts is not None:
                        packet.stream = copy
                        output.mux(packet)
    except (FFmpegError, ValueError) as error:
        message = f"its sound cannot be read ({type(error).__name__})"
        raise Failure(Reason.INCOMPLETE_DOWNLOAD, message) from error
    file.unlink()
    on_bytes(target.stat().st_size, target.stat().st_size)
    return target
