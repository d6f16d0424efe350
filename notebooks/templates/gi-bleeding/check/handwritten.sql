-- The numbers of gi_bleeding.ipynb, asked of the records by hand: an independent check.
--
-- For DuckDB, with the views patients, practice_registrations, medications and clinical_events over
-- the records, and the parameters $index_date (date), $age_bands (list of whole numbers) and $drug.
-- One row for each table, age band and sex that has anybody. True counts: never show them.

WITH asked AS (
    SELECT CAST($index_date AS DATE) AS index_date, CAST($age_bands AS BIGINT[]) AS edges, CAST($drug AS VARCHAR) AS drug
),
nsaid(code, drug) AS (
    VALUES ('330170001', 'celecoxib'), ('329587009', 'diclofenac'),
           ('329652003', 'ibuprofen'), ('23811000001106', 'ibuprofen'),
           ('329806007', 'naproxen'), ('329807003', 'naproxen')
),
registered AS (
    SELECT patient_id, start_date, end_date
    FROM practice_registrations
    QUALIFY row_number() OVER (
        PARTITION BY patient_id ORDER BY start_date DESC NULLS LAST, end_date DESC NULLS LAST
    ) = 1
),
first_prescription AS (
    SELECT patient_id, min(date) AS started
    FROM medications JOIN nsaid ON dmd_code = code, asked
    WHERE asked.drug = 'any' OR asked.drug = nsaid.drug
    GROUP BY patient_id
),
first_bleed AS (
    SELECT patient_id, min(date) AS bled
    FROM clinical_events
    WHERE snomedct_code IN ('74474003', '37372002', '87763006', '8765009', '2901004')
    GROUP BY patient_id
),
people AS (
    SELECT
        p.patient_id,
        p.sex,
        edges,
        len(list_filter(edges, lambda edge: edge <= date_sub('year', p.date_of_birth, index_date))) AS band,
        b.bled >= f.started AND b.bled < index_date AS bled
    FROM patients AS p
    JOIN registered AS r ON r.patient_id = p.patient_id
    JOIN first_prescription AS f ON f.patient_id = p.patient_id
    LEFT JOIN first_bleed AS b ON b.patient_id = p.patient_id,
    asked
    WHERE p.sex IN ('female', 'male')
      AND r.start_date <= index_date
      AND (r.end_date IS NULL OR r.end_date >= index_date)
      AND f.started < index_date
),
labelled AS (
    SELECT
        *,
        CASE
            WHEN band = 0 THEN 'under ' || edges[1]
            WHEN band = len(edges) THEN edges[band] || ' and over'
            WHEN edges[band + 1] - 1 = edges[band] THEN CAST(edges[band] AS VARCHAR)
            ELSE edges[band] || '-' || (edges[band + 1] - 1)
        END AS age_band
    FROM people
)
SELECT 'people prescribed' AS "table", age_band, sex, count(DISTINCT patient_id) AS people
FROM labelled GROUP BY ALL
UNION ALL
SELECT 'people who bled' AS "table", age_band, sex, count(DISTINCT patient_id) AS people
FROM labelled WHERE bled GROUP BY ALL
ORDER BY ALL
