-- A document may be a picture. It is stored as it was sent; `format` is its media type and `content` its caption.
ALTER TABLE documents ADD COLUMN image bytea;
-- Pictures are compressed already.
ALTER TABLE documents ALTER COLUMN image SET STORAGE EXTERNAL;
