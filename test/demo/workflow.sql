-- The functions of the workflow: each step inserts what it finds, and returns what the next one needs.

CREATE TABLE demo.paragraph (
    package text REFERENCES demo.file,
    number int,
    content text NOT NULL,
    PRIMARY KEY (package, number)
);

CREATE TABLE demo.review (
    package text PRIMARY KEY REFERENCES demo.file,
    licences jsonb NOT NULL,
    person text
);

-- Reads a file, and keeps the paragraphs that speak of a licence, at most twenty.
CREATE FUNCTION demo.split(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    body text;
    n int;
BEGIN
    SELECT convert_from(content, 'UTF8') INTO STRICT body FROM demo.file WHERE package = input ->> 'package';
    INSERT INTO demo.paragraph
        SELECT input ->> 'package', row_number() OVER (ORDER BY r.place), r.content
        FROM regexp_split_to_table(body, '\n\s*\n') WITH ORDINALITY r(content, place)
        WHERE r.content ~* 'licen[cs]e|permission'
        ORDER BY r.place LIMIT 20;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN jsonb_build_object('package', input -> 'package', 'paragraphs', n);
END
$$;

-- The items of the map: what each of its children gets.
CREATE FUNCTION demo.paragraphs(input jsonb) RETURNS SETOF demo.paragraph LANGUAGE sql AS $$
    SELECT * FROM demo.paragraph WHERE package = input ->> 'package' ORDER BY number
$$;

-- A child: the licences of one paragraph.
CREATE FUNCTION demo.detect(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT coalesce(jsonb_agg(l.name ORDER BY l.name), '[]') FROM demo.licence l WHERE input ->> 'content' ~* l.pattern
$$;

-- Gets an array of arrays, in the order of the paragraphs.
CREATE FUNCTION demo.summarise(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('licences', coalesce(jsonb_agg(l ORDER BY l), '[]'), 'known', count(*) > 0)
    FROM (SELECT DISTINCT l FROM jsonb_path_query(input, '$[*][*]') l) d
$$;

CREATE FUNCTION demo.keep(input jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO demo.review VALUES (input ->> 'package', coalesce(nullif(input -> 'answer' -> 'licences', 'null'), input -> 'found'),
        input -> 'answer' ->> 'person')
$$;
