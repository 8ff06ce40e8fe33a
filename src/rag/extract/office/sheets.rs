//! Spreadsheets and delimited text: a section for each sheet, its tables with their heads.

use std::io::Cursor;

use calamine::{Data, DataRef, ExcelDateTime, Reader, Xls, XlsError, Xlsb, XlsbError, Xlsx, XlsxError};

use super::{ExtractError, Extracted, Format, finish};
use crate::rag::extract::{archive::Archive, markdown::Markdown};

/// Cells of a file that are read at most.
const MAX_CELLS: usize = 5_000_000;

/// A row: its number and its cells.
type Row = (u32, Vec<String>);

/// Reads an Excel workbook.
pub(super) fn extract(bytes: &[u8], format: Format) -> Result<Extracted, ExtractError> {
    let mut out = Markdown::default();
    let file = Cursor::new(bytes);
    match format {
        Format::Xls => {
            let mut book: Xls<_> = calamine::open_workbook_from_rs(file).map_err(xls_refusal)?;
            // It holds its sheets already; no sheet of this format is larger than 65,536 rows.
            for (name, range) in book.worksheets() {
                let cells =
                    range.used_cells().map(|(row, column, cell)| (row as u32, column as u32, cell.clone()));
                write_sheet(&name, cells.map(Ok), format, &mut out)?;
            }
        }
        Format::Xlsb => {
            Archive::open(bytes, format)?.check_all()?;
            let mut book: Xlsb<_> = calamine::open_workbook_from_rs(file).map_err(xlsb_refusal)?;
            for name in book.sheet_names() {
                let mut cells = match book.worksheet_cells_reader(&name) {
                    Ok(cells) => cells,
                    // Sheets of macros and charts have no cells.
                    Err(XlsbError::WorksheetNotFound(_)) => continue,
                    Err(error) => return Err(xlsb_refusal(error)),
                };
                let cells = std::iter::from_fn(|| {
                    Some(cells.next_cell().transpose()?.map(position).map_err(xlsb_refusal))
                });
                write_sheet(&name, cells, format, &mut out)?;
            }
        }
        _ => {
            Archive::open(bytes, format)?.check_all()?;
            let mut book: Xlsx<_> = calamine::open_workbook_from_rs(file).map_err(xlsx_refusal)?;
            for name in book.sheet_names() {
                let mut cells = match book.worksheet_cells_reader(&name) {
                    Ok(cells) => cells,
                    Err(XlsxError::NotAWorksheet(_) | XlsxError::WorksheetNotFound(_)) => continue,
                    Err(error) => return Err(xlsx_refusal(error)),
                };
                let cells = std::iter::from_fn(|| {
                    Some(cells.next_cell().transpose()?.map(position).map_err(xlsx_refusal))
                });
                write_sheet(&name, cells, format, &mut out)?;
            }
        }
    }
    finish(None, out, format)
}

fn position(cell: calamine::Cell<DataRef>) -> (u32, u32, Data) {
    let (row, column) = cell.get_position();
    (row, column, Data::from(cell.get_value().clone()))
}

/// Writes the cells of a sheet, which come row by row.
fn write_sheet(
    name: &str,
    cells: impl Iterator<Item = Result<(u32, u32, Data), ExtractError>>,
    format: Format,
    out: &mut Markdown,
) -> Result<(), ExtractError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut count = 0;
    for cell in cells {
        let (row, column, value) = cell?;
        let text = text_of(&value);
        if text.trim().is_empty() {
            continue;
        }
        let column = column as usize;
        if rows.last().is_none_or(|(number, _)| *number != row) {
            rows.push((row, Vec::new()));
        }
        let Some((_, cells)) = rows.last_mut() else { continue };
        count += (column + 1).saturating_sub(cells.len());
        if count > MAX_CELLS {
            return Err(format.broken(format!("it has more than {MAX_CELLS} cells; split the file")));
        }
        if cells.len() <= column {
            cells.resize(column + 1, String::new());
        }
        cells[column] = text;
    }
    write_rows(name, rows, out)
}

/// Writes a sheet: a table wherever an empty row stands between others.
pub(super) fn write_rows(name: &str, rows: Vec<Row>, out: &mut Markdown) -> Result<(), ExtractError> {
    if rows.is_empty() {
        return Ok(());
    }
    out.heading(2, name);
    for block in blocks(rows) {
        out.table(&block);
        out.check_size()?;
    }
    Ok(())
}

/// Rows that stand together. What follows an empty row goes on with the table before
/// it when it is numbers under the same columns.
fn blocks(rows: Vec<Row>) -> Vec<Vec<Vec<String>>> {
    let mut blocks: Vec<Vec<Vec<String>>> = Vec::new();
    let mut next = None;
    for (number, cells) in rows {
        let width = |rows: &[Vec<String>]| rows.iter().map(Vec::len).max().unwrap_or(0);
        let has_number = cells.iter().any(|cell| cell.parse::<f64>().is_ok());
        match blocks.last_mut() {
            Some(block) if next == Some(number) || (has_number && width(block) == cells.len()) => {
                block.push(cells)
            }
            _ => blocks.push(vec![cells]),
        }
        next = number.checked_add(1);
    }
    blocks
}

fn text_of(value: &Data) -> String {
    match value {
        Data::Empty => String::new(),
        Data::String(text) | Data::DateTimeIso(text) | Data::DurationIso(text) => text.clone(),
        Data::Int(number) => number.to_string(),
        Data::Float(number) => rounded(*number),
        Data::Bool(is_true) => if *is_true { "TRUE" } else { "FALSE" }.to_owned(),
        Data::DateTime(time) => date_text(time),
        Data::Error(error) => error.to_string(),
    }
}

/// A number with the 15 digits that spreadsheets show at most.
fn rounded(number: f64) -> String {
    format!("{number:.14e}").parse::<f64>().unwrap_or(number).to_string()
}

fn date_text(time: &ExcelDateTime) -> String {
    if time.is_duration() {
        let seconds = (time.as_f64() * 86_400.).round() as i64;
        return format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    }
    let (year, month, day, hour, minute, second, _) = time.to_ymd_hms_milli();
    let date = format!("{year:04}-{month:02}-{day:02}");
    let clock = format!("{hour:02}:{minute:02}:{second:02}");
    match (time.as_f64() < 1., hour == 0 && minute == 0 && second == 0) {
        (true, _) => clock,
        (false, true) => date,
        (false, false) => format!("{date} {clock}"),
    }
}

/// Reads delimited text as a table.
pub(in crate::rag::extract) fn delimited(text: &str) -> Result<Extracted, ExtractError> {
    // What some programs write for others to know.
    let stated = text.lines().next().and_then(|line| line.trim().strip_prefix("sep="));
    let (delimiter, text) = match stated.map(str::as_bytes) {
        Some([delimiter]) => (*delimiter, text.split_once('\n').map_or("", |(_, rest)| rest)),
        _ => (delimiter_of(text), text),
    };
    let mut rows = Vec::new();
    let mut count = 0;
    for record in reader(text, delimiter).into_records() {
        let record = record.map_err(|error| Format::Csv.broken(error.to_string()))?;
        count += record.len();
        if count > MAX_CELLS {
            return Err(Format::Csv.broken(format!("it has more than {MAX_CELLS} cells; split the file")));
        }
        rows.push(record.iter().map(str::to_owned).collect());
    }
    let mut out = Markdown::default();
    out.table(&rows);
    finish(None, out, Format::Csv)
}

fn reader(text: &str, delimiter: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(text.as_bytes())
}

/// The delimiter that cuts the first rows most alike, and into most columns.
fn delimiter_of(text: &str) -> u8 {
    const SAMPLE_ROWS: usize = 50;
    let score = |delimiter: &u8| {
        let widths: Vec<usize> = reader(text, *delimiter)
            .into_records()
            .take(SAMPLE_ROWS)
            .flatten()
            .map(|row| row.len())
            .collect();
        let usual = widths.first().copied().unwrap_or(1);
        let alike = widths.iter().filter(|width| **width == usual).count();
        if usual < 2 { (0, 0) } else { (alike * 100 / widths.len().max(1), usual) }
    };
    // Of equals the last: the comma.
    [b'|', b'\t', b';', b','].into_iter().max_by_key(score).unwrap_or(b',')
}

fn xls_refusal(error: XlsError) -> ExtractError {
    match error {
        XlsError::Password => ExtractError::Encrypted { format: Format::Xls },
        other => Format::Xls.broken(other.to_string()),
    }
}

fn xlsx_refusal(error: XlsxError) -> ExtractError {
    match error {
        XlsxError::Password => ExtractError::Encrypted { format: Format::Xlsx },
        other => Format::Xlsx.broken(other.to_string()),
    }
}

fn xlsb_refusal(error: XlsbError) -> ExtractError {
    match error {
        XlsbError::Password => ExtractError::Encrypted { format: Format::Xlsb },
        other => Format::Xlsb.broken(other.to_string()),
    }
}
