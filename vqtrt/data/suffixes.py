"""Suffixes of recordings, of archives and of what lies beside images: each is listed here once."""

_READ_AUDIO = """
.wav .wave .bwf .flac .ogg .oga .opus .mp3 .mp2 .aiff .aif .aifc .au .snd .caf .rf64 .w64
.sph .nist .nis .voc .svx .8svx .ircam .avr .htk .pvf
"""
_CONVERTIBLE_AUDIO = """
.m4a .m4b .mp4 .m4v .mov .aac .adts .ac3 .amr .3gp .3g2 .ape .wma .wmv .asf .webm .mkv .mka .avi
.flv .mpg .mpeg .mpga .ts .wv .tta .dsf .dff .spx .ra .rm .wv1 .wv2 .shn .gsm .vox
"""
_ARCHIVES = """
.7z .arrow .bz2 .feather .gz .lmdb .mdb .parquet .rar .rec .tar .tfrecord .tfrecords .tgz .xz .zip
.zst
"""
_OTHER = """
.bib .caption .captions .cfg .cls .conf .csv .doc .docx .geojson .htm .html .ini .json .json5
.jsonl .lab .list .log .lst .md .ndjson .rst .rtf .srt .sqlite .sqlite3 .tags .tex .textgrid .toml
.tsv .txt .vtt .xls .xlsx .xml .xmp .yaml .yml
.aae .db .idx .index .lnk .lock .md5 .sha1 .sha256 .sha512 .torrent .url
.bin .ckpt .h5 .hdf5 .mat .npy .npz .onnx .pickle .pkl .pt .pth .safetensors
.bat .ipynb .js .py .pyc .sh
.aria2 .cache .crdownload .download .part .partial .tmp
"""

READ_AUDIO = tuple(_READ_AUDIO.split())
"""Recordings that libsndfile reads."""
CONVERTIBLE_AUDIO = frozenset(_CONVERTIBLE_AUDIO.split())
"""Recordings, and films with sound, that libsndfile does not read and ffmpeg does."""
ARCHIVES = frozenset(_ARCHIVES.split())
"""Files that may hold images, and are not opened if they lie in a folder."""
NO_IMAGES = ARCHIVES | CONVERTIBLE_AUDIO | frozenset((*READ_AUDIO, *_OTHER.split()))
"""Files that lie beside images and are none."""
