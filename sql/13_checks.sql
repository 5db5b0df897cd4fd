-- Checks of arguments that many functions share. Null passes: it means the default.
-- Invariant: each raises 22023 with the argument's name, what is allowed, and a hint; none changes anything.

CREATE FUNCTION underway_internal.check_int(value bigint, argument text, lowest bigint, highest bigint) RETURNS bool
    LANGUAGE plpgsql AS $$
BEGIN
    IF value < lowest OR value > highest THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('%s must be from %s to %s, not %s', argument, lowest, highest, value),
            HINT = 'Leave it out to have the default.';
    END IF;
    RETURN true;
END $$;

-- Compared as intervals are: a month counts as 30 days.
CREATE FUNCTION underway_internal.check_interval(value interval, argument text, lowest interval, highest interval)
    RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    IF value < lowest OR value > highest OR NOT isfinite(value) THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('%s must be from %s to %s, not %s', argument, lowest, highest, value),
            HINT = 'Leave it out to have the default.';
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION underway_internal.check_word(value text, argument text, words text[])
    RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    IF NOT value = ANY (words) THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('%s must be one of %s, not "%s"', argument, array_to_string(words, ', '), left(value, 100)),
            HINT = 'Leave it out to have the default.';
    END IF;
    RETURN true;
END $$;

-- The name of something new. It will stand in log lines and process titles, hence no control characters.
CREATE FUNCTION underway_internal.check_name(name text, argument text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(name, '') = '' OR octet_length(name) > 128 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('%s must have 1 to 128 bytes, not %s', argument,
                CASE WHEN name IS NULL THEN 'null' ELSE octet_length(name)::text END),
            HINT = 'For example ''emails''.';
    ELSIF name ~ '[[:cntrl:]]' OR name <> btrim(name) THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('%s must not contain control characters, nor begin or end with a space', argument),
            HINT = 'For example ''emails''.';
    END IF;
    RETURN true;
END $$;

-- A list of words such as rights or settings: not null, not empty, nothing unknown in it.
CREATE FUNCTION underway_internal.check_words(value text[], argument text, words text[])
    RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    word text;
BEGIN
    IF coalesce(cardinality(value), 0) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('%s must not be %s', argument, CASE WHEN value IS NULL THEN 'null' ELSE 'empty' END),
            HINT = format('Known: %s.', array_to_string(words, ', '));
    END IF;
    FOREACH word IN ARRAY value LOOP
        IF word IS NULL OR NOT word = ANY (words) THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('%s must not contain %s', argument, coalesce(quote_literal(left(word, 100)), 'null')),
                HINT = format('Known: %s.', array_to_string(words, ', '));
        END IF;
    END LOOP;
    RETURN true;
END $$;
