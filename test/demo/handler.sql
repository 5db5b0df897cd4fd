-- The demo's own objects: what it loads, what it finds, and the handler that turns one into the other.

CREATE SCHEMA demo;

CREATE TABLE demo.file (
    package text PRIMARY KEY,
    content bytea NOT NULL
);

CREATE TABLE demo.finding (
    package text PRIMARY KEY REFERENCES demo.file,
    words int NOT NULL,
    search tsvector NOT NULL
);

CREATE TABLE demo.licence_of (
    package text REFERENCES demo.file,
    licence text,
    PRIMARY KEY (package, licence)
);

CREATE TABLE demo.licence (name text PRIMARY KEY, pattern text NOT NULL);

INSERT INTO demo.licence VALUES
    ('GPL',            '\mGPL|GNU General Public Licen[cs]e'),
    ('LGPL',           '\mLGPL|GNU (Lesser|Library) General Public Licen[cs]e'),
    ('AGPL',           '\mAGPL|GNU Affero General Public Licen[cs]e'),
    ('GFDL',           '\mGFDL|GNU Free Documentation Licen[cs]e'),
    ('MIT',            '\mExpat\M|\mMIT\M|Permission is hereby granted, free of charge'),
    ('BSD',            '\mBSD\M|Redistribution and use in source and binary forms'),
    ('Apache',         'Apache-2|Apache Licen[cs]e'),
    ('MPL',            '\mMPL\M|Mozilla Public Licen[cs]e'),
    ('ISC',            '\mISC\M|Permission to use, copy, modify, and/?(or)? distribute'),
    ('Zlib',           'Licen[cs]e: *Zlib|provided ''as-is'', without any express'),
    ('Artistic',       '\mArtistic\M'),
    ('Boost',          '\mBSL-1|Boost Software Licen[cs]e'),
    ('CC0',            '\mCC0\M'),
    ('CC-BY',          '\mCC-BY|Creative Commons Attribution'),
    ('OpenSSL',        'Licen[cs]e: *OpenSSL|OpenSSL Licen[cs]e'),
    ('Unicode',        'Unicode-DFS|UNICODE, INC'),
    ('public domain',  '\mpublic[- ]domain\M');

-- One attempt is one transaction: what it inserts and what it returns are kept together or not at all.
CREATE FUNCTION demo.read_copyright(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    task_package text := input ->> 'package';
    body text;
    words int;
    licences text[];
BEGIN
    SELECT convert_from(content, 'UTF8') INTO STRICT body FROM demo.file WHERE package = task_package;

    WITH found AS (
        INSERT INTO demo.licence_of
        SELECT task_package, l.name FROM demo.licence AS l WHERE body ~* l.pattern
        RETURNING licence
    )
    SELECT array_agg(licence ORDER BY licence) INTO licences FROM found;

    words := regexp_count(body, '\w+');
    -- A search vector holds at most a megabyte; the longest files are lists of names.
    INSERT INTO demo.finding VALUES (task_package, words, to_tsvector('english', left(body, 300000)));

    RETURN jsonb_build_object('words', words, 'licences', licences);
END
$$;
