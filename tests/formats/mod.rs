//! Files of every format, good and bad, and the processes that read them.

mod samples;

use std::os::unix::fs::PermissionsExt;

use ragway::{
    config::ReaderSettings,
    rag::extract::{ExtractError, Format, ReaderError, Readers, extract},
};
use reqwest::multipart::Form;
use serde_json::json;

use crate::{
    documents::{file, upload},
    harness::{TestApp, good, problem},
};

fn text(name: &str, bytes: &[u8]) -> String {
    extract(Some(name), None, bytes).unwrap_or_else(|error| panic!("{name}: {error}")).text
}

fn reason(name: &str, bytes: &[u8]) -> String {
    extract(Some(name), None, bytes).unwrap_err().to_string()
}

fn readers(change: impl FnOnce(&mut ReaderSettings)) -> Readers {
    let mut settings = ReaderSettings::default();
    change(&mut settings);
    Readers::of_program(env!("CARGO_BIN_EXE_ragway").into(), settings)
}

async fn read(readers: &Readers, name: &str, bytes: &[u8]) -> Result<String, ReaderError> {
    let read = readers.extract(Some(name.into()), None, bytes.to_vec().into()).await;
    read.map(|extracted| extracted.text)
}

#[test]
fn structure_of_office_files_is_kept() {
    assert_eq!(
        text("a.docx", &samples::docx()),
        "# Fares\n\nA bicycle costs\t3 euros.\nEach way.\n\nBoxed.\n\n3. one\n  - deeper\n4. two\n\n\
         | Who | Price |\n| --- | --- |\n| Child \\| baby | 0 |\n\nExcept in winter."
    );
    assert_eq!(
        text("a.pptx", &samples::pptx()),
        "## Slide 1: The harbour\n\n## Slide 2: Piers\n\nAll are\n- long\n\n| Pier | Length |\n| --- | --- |\n\
         | Nordby | 90 m |\n\nNotes: Mention the dredging."
    );
    assert_eq!(
        text("a.xlsx", &samples::xlsx()),
        "## Fares 2026\n\nAll prices in euros\n\n| Who | Price | Since |\n| --- | --- | --- |\n\
         | Adult | 0.3 | 2025-10-13 |\n| Child | 12 | 2025-10-14 12:00:00 |"
    );
    assert_eq!(
        text("a.odt", &samples::odt()),
        "## Fares\n\nA bicycle costs 3 euros.\n\n1. one\n  - deeper\n2. two\n\n| Who | Price |\n| --- | --- |\n\
         | Child | 0 |\n\nFolded ones are free."
    );
    assert_eq!(
        text("a.ods", &samples::ods()),
        "## Fares\n\n| Who | Price |\n| --- | --- |\n| Child | 0 |\n| Child | 0 |"
    );
    assert_eq!(text("a.odp", &samples::odp()), "## Slide 1: Piers\n\nAll are long.");
    let titles = [samples::docx(), samples::odt(), samples::epub()]
        .map(|bytes| extract(None, None, &bytes).unwrap().title.unwrap());
    assert_eq!(titles, ["Ferry & fares", "Ferry", "The Ferry"]);
}

#[test]
fn books_mails_and_tables_are_read() {
    assert_eq!(
        text("a.epub", &samples::epub()),
        "# Morning\n\nIt leaves at nine.\n\n# Evening\n\nIt comes back."
    );
    assert_eq!(
        text("a.eml", &samples::eml()),
        "# Gates\n\nFrom: Jørn <jorn@ferry.example>\nTo: crew@ferry.example\nDate: 2026-01-05T10:00:00+01:00\n\n\
         The café opens.\n\nGates close at five.\n\n## Attachment: fares.csv\n\n| Who | Price |\n| --- | --- |\n\
         | Child | 0 |\n\nAttachment: a.png (not read: a PNG image holds no text)\n\n## Inner\n\nFrom: a@b.example\n\nInner words."
    );
    assert_eq!(text("a.rtf", &samples::rtf()), "# Fares\n\nA café ticket costs 3 €.");
    let table = "| Who | Price |\n| --- | --- |\n| Adult | 3,50 |";
    for (name, content) in [
        ("a.csv", "Who;Price\nAdult;3,50\n"),
        ("a.tsv", "Who\tPrice\nAdult\t3,50\n"),
        ("a.csv", "sep=|\nWho|Price\nAdult|3,50\n"),
        ("a.csv", "\u{feff}Who,Price\r\n\"Adult\",\"3,50\"\r\n"),
    ] {
        assert_eq!(text(name, content.as_bytes()), table, "{content}");
    }
}

#[test]
fn content_decides_what_a_file_is() {
    let format = |name: &str, bytes: &[u8]| extract(Some(name), Some("text/plain"), bytes).unwrap().format;
    assert_eq!(format("a.pdf", &samples::docx()), Format::Docx);
    assert_eq!(format("a.docx", &samples::xlsx()), Format::Xlsx);
    assert_eq!(format("a.txt", &samples::rtf()), Format::Rtf);
    assert_eq!(format("a.zip", &samples::epub()), Format::Epub);
    assert_eq!(format("a.xls", b"<html><table><tr><td>1</td><td>2</td></tr></table>"), Format::Html);
    assert_eq!(
        reason("a.docx", b"just words"),
        "Word document (.docx) cannot be read: it does not begin as one (a ZIP container)"
    );
    assert!(
        reason("a.zip", &samples::archive(&[("a.txt", "x")]))
            .starts_with("a ZIP archive cannot be read; supported are")
    );
    assert!(
        reason("a.bmp", b"BM\0\0\x01\0")
            .contains("a BMP image holds no text; a picture (PNG, JPEG, WebP or GIF)")
    );
    assert_eq!(text("a.txt", b"BMW cars are made here."), "BMW cars are made here.");
}

#[test]
fn passwords_are_named_as_the_reason() {
    let encrypted = |name: &str, format| {
        assert_eq!(
            extract(Some(name), None, &samples::compound("EncryptedPackage")),
            Err(ExtractError::Encrypted { format })
        )
    };
    encrypted("a.xlsx", Format::Xlsx);
    encrypted("a.pptx", Format::Pptx);
    assert!(
        reason("a.doc", &samples::compound("WordDocument"))
            .starts_with("an old Word document (.doc) cannot be read; supported are")
    );
    assert!(
        reason("a.msg", &samples::compound("__properties_version1.0"))
            .starts_with("an Outlook message (.msg) cannot be read")
    );
    let locked = samples::archive(&[
        ("mimetype", "application/vnd.oasis.opendocument.text"),
        ("content.xml", "\u{1}garbled"),
        ("META-INF/manifest.xml", "<manifest><encryption-data/></manifest>"),
    ]);
    assert_eq!(reason("a.odt", &locked), "OpenDocument text (.odt) is encrypted; remove the password first");
}

#[test]
fn bombs_are_refused() {
    let zeros = " ".repeat(20 << 20);
    let bomb = samples::docx_of(&zeros);
    assert!(reason("a.docx", &bomb).contains("expands to more than 16 MiB"), "{}", reason("a.docx", &bomb));
    let cells = samples::xlsx_of(&zeros);
    assert!(reason("a.xlsx", &cells).contains("expands to more than 16 MiB"));
    let many: Vec<String> = (0..10_001).map(|n| format!("word/{n}")).collect();
    let mut many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    many.push(("word/document.xml", "<d/>"));
    assert!(reason("a.docx", &samples::archive(&many)).contains("10002 parts, at most 10000 are read"));
    let entities = "<!DOCTYPE d [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;\">]><d>&b;</d>";
    let expanding = samples::archive(&[("word/document.xml", entities)]);
    assert!(reason("a.docx", &expanding).contains("is no good XML"), "{}", reason("a.docx", &expanding));
    let deep = samples::docx_of(&format!("{}{}", "<w:sdt>".repeat(5_000), "</w:sdt>".repeat(5_000)));
    assert_eq!(reason("a.docx", &deep), "Word document (.docx) is nested more than 256 levels deep");
    let wide = samples::opendocument(
        "spreadsheet",
        "<office:spreadsheet><table:table table:name=\"x\"><table:table-row table:number-rows-repeated=\"1000000\">\
         <table:table-cell table:number-columns-repeated=\"16000\"><text:p>x</text:p></table:table-cell></table:table-row></table:table></office:spreadsheet>",
    );
    assert!(reason("a.ods", &wide).contains("more than 5000000 cells"));
    let mut mail = "From: a@b.example\r\nSubject: x\r\nContent-Type: message/rfc822\r\n\r\n".repeat(500);
    mail.push_str("From: a@b.example\r\n\r\nend");
    assert!(text("a.eml", mail.as_bytes()).contains("attached to each other too deep"));
}

/// Numbers that look like chance and are the same in every run.
fn numbers() -> impl FnMut() -> usize {
    let mut state: u64 = 0x5eed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    }
}

#[tokio::test]
async fn damaged_files_are_read_or_refused_and_harm_nobody() {
    let readers = readers(|_| {});
    let mut number = numbers();
    for (name, bytes) in samples::all() {
        let whole = read(&readers, name, &bytes).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        for round in 0..24 {
            let mut damaged = bytes.clone();
            if round % 3 == 0 {
                damaged.truncate(number() % bytes.len());
            } else {
                for _ in 0..1 + number() % 8 {
                    let at = number() % damaged.len();
                    damaged[at] ^= 1 << (number() % 8);
                }
            }
            match read(&readers, name, &damaged).await {
                Ok(_) | Err(ReaderError::File(_)) => {}
                Err(error @ ReaderError::Unavailable(_)) => panic!("{name}: {error}"),
            }
        }
        assert_eq!(read(&readers, name, &bytes).await.unwrap(), whole, "{name}");
    }
}

#[tokio::test]
async fn a_file_can_only_end_the_process_that_reads_it() {
    let readers = readers(|settings| (settings.processes, settings.memory_mb) = (1, 512));
    // Millions of elements: small in the file, large as a tree. They repeat too far apart to
    // be packed like a bomb.
    let elements: String = (0..4000).map(|n: u64| format!("<w:p a=\"{}\"/>", n * 7_919 * 104_729)).collect();
    let hungry = samples::docx_of(&elements.repeat(800));
    let error = read(&readers, "a.docx", &hungry).await.unwrap_err().to_string();
    assert!(error.contains("needs more than 512 MiB of memory"), "{error}");
    assert!(read(&readers, "a.docx", &samples::docx()).await.unwrap().contains("Fares"));
}

#[tokio::test]
async fn readers_that_hang_or_fail_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("reader");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let of = |program: &str| {
        Readers::of_program(program.into(), ReaderSettings { timeout_ms: 1000, ..ReaderSettings::default() })
    };
    let slow = read(&of(program.to_str().unwrap()), "a.rtf", &samples::rtf()).await.unwrap_err();
    assert!(matches!(slow, ReaderError::File(ExtractError::TooSlow { seconds: 1 })), "{slow}");
    let ended = read(&of("/bin/false"), "a.rtf", &samples::rtf()).await.unwrap_err();
    assert!(matches!(ended, ReaderError::File(ExtractError::Crashed { .. })), "{ended}");
    let missing = read(&of("/nowhere/ragway"), "a.rtf", &samples::rtf()).await.unwrap_err();
    assert!(matches!(missing, ReaderError::Unavailable(_)), "{missing}");
    // Text needs no process.
    assert_eq!(read(&of("/nowhere/ragway"), "a.txt", b"words").await.unwrap(), "words");
}

#[test]
fn the_hidden_command_is_not_for_people() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ragway"))
        .args(["extract-worker", "--memory-mb", "512", "--timeout-ms", "1000"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("`ragway ingest` reads files"));
}

#[tokio::test]
async fn citations_name_pages_slides_and_sheets() {
    let app = TestApp::start().await;
    let form = samples::all()
        .into_iter()
        .fold(Form::new(), |form, (name, bytes)| form.part("file", file(name, bytes)));
    let body = good(upload(&app, form).await).await;
    assert_eq!(body["documents"].as_array().unwrap().len(), samples::all().len(), "{body}");
    for (query, filename, heading) in [
        ("How high is the tower?", "a.pdf", "Page 1"),
        ("Length of the pier of Nordby", "a.pptx", "Slide 1: The harbour – Slide 2: Piers"),
        ("Price for a child since 2025-10-14", "a.xlsx", "Fares 2026"),
        ("It comes back in the evening", "a.epub", "Morning – Evening"),
    ] {
        let found = good(app.search(json!({"query": query, "k": 20})).await).await;
        let results = found["results"].as_array().unwrap();
        let passage = results.iter().find(|passage| passage["source"] == filename).unwrap();
        assert_eq!(passage["heading"], heading, "{passage}");
    }
    let picture = Form::new().part("file", file("a.tiff", b"II*\0".to_vec()));
    let told = problem(upload(&app, picture).await, 415, "unsupported_format").await;
    assert!(told["detail"].as_str().unwrap().starts_with("a TIFF image holds no text"), "{told}");
}

#[test]
fn the_page_offers_every_format() {
    let page = include_str!("../../src/http/ui/index.html");
    for extension in Format::extensions() {
        assert!(page.contains(&format!(".{extension},")), "{extension}");
    }
}
