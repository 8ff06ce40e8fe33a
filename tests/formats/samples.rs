//! Small files of every format, made here.

use std::io::{Cursor, Write};

use zip::{ZipWriter, write::SimpleFileOptions};

/// A ZIP container of these parts.
pub fn archive(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, content) in parts {
        zip.start_file(*path, SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const RELATIONS: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";

/// The part that tells what a part refers to: id, kind, target.
fn relations(relations: &[(&str, &str, &str)]) -> String {
    let one = |(id, kind, target): &(&str, &str, &str)| {
        format!("<Relationship Id=\"{id}\" Type=\"{RELATIONS}/{kind}\" Target=\"{target}\"/>")
    };
    let all: String = relations.iter().map(one).collect();
    format!(
        "<Relationships xmlns=\"http://schemas.openxmlformats.org/package/2006/relationships\">{all}</Relationships>"
    )
}

/// A Word document with this body.
pub fn docx_of(body: &str) -> Vec<u8> {
    let word = "xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\" \
                xmlns:mc=\"http://schemas.openxmlformats.org/markup-compatibility/2006\"";
    let styles = format!(
        "<w:styles {word}><w:style w:styleId=\"H1\"><w:name w:val=\"heading 1\"/></w:style>\
         <w:style w:styleId=\"Own\"><w:name w:val=\"My heading\"/><w:basedOn w:val=\"H1\"/></w:style>\
         <w:style w:styleId=\"T\"><w:name w:val=\"Title\"/></w:style></w:styles>"
    );
    let numbering = format!(
        "<w:numbering {word}><w:abstractNum w:abstractNumId=\"7\">\
         <w:lvl w:ilvl=\"0\"><w:start w:val=\"3\"/><w:numFmt w:val=\"decimal\"/></w:lvl>\
         <w:lvl w:ilvl=\"1\"><w:numFmt w:val=\"bullet\"/></w:lvl></w:abstractNum>\
         <w:num w:numId=\"1\"><w:abstractNumId w:val=\"7\"/></w:num></w:numbering>"
    );
    let notes = format!(
        "<w:footnotes {word}><w:footnote w:type=\"separator\"><w:p><w:r><w:t>line</w:t></w:r></w:p></w:footnote>\
         <w:footnote><w:p><w:r><w:t>Except in winter.</w:t></w:r></w:p></w:footnote></w:footnotes>"
    );
    let document = format!("<?xml version=\"1.0\"?><w:document {word}><w:body>{body}</w:body></w:document>");
    archive(&[
        ("_rels/.rels", &relations(&[("r1", "officeDocument", "word/document.xml")])),
        ("word/document.xml", &document),
        (
            "word/_rels/document.xml.rels",
            &relations(&[
                ("r1", "styles", "styles.xml"),
                ("r2", "numbering", "numbering.xml"),
                ("r3", "footnotes", "/word/footnotes.xml"),
            ]),
        ),
        ("word/styles.xml", &styles),
        ("word/numbering.xml", &numbering),
        ("word/footnotes.xml", &notes),
        (
            "docProps/core.xml",
            "<cp:p xmlns:cp=\"c\" xmlns:dc=\"d\"><dc:title>Ferry &amp; fares</dc:title></cp:p>",
        ),
    ])
}

pub fn docx() -> Vec<u8> {
    let paragraph = |properties: &str, text: &str| {
        format!("<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>")
    };
    let item = |level: usize, text: &str| {
        paragraph(&format!("<w:numPr><w:ilvl w:val=\"{level}\"/><w:numId w:val=\"1\"/></w:numPr>"), text)
    };
    let cell = |text: &str| format!("<w:tc>{}</w:tc>", paragraph("", text));
    docx_of(&[
        paragraph("<w:pStyle w:val=\"Own\"/>", "Fares"),
        "<w:p><w:r><w:t>A bicycle </w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>\
         <w:ins><w:r><w:t>costs</w:t><w:tab/><w:t>3 euros.</w:t><w:br/><w:t>Each way.</w:t></w:r></w:ins></w:p>".into(),
        "<w:p><w:r><mc:AlternateContent><mc:Choice><w:txbxContent><w:p><w:r><w:t>Boxed.</w:t></w:r></w:p></w:txbxContent></mc:Choice>\
         <mc:Fallback><w:txbxContent><w:p><w:r><w:t>Boxed.</w:t></w:r></w:p></w:txbxContent></mc:Fallback></mc:AlternateContent></w:r></w:p>".into(),
        item(0, "one"),
        item(1, "deeper"),
        item(0, "two"),
        format!(
            "<w:tbl><w:tr>{}{}</w:tr><w:tr>{}{}</w:tr></w:tbl>",
            cell("Who"), cell("Price"), cell("Child | baby"), cell("0")
        ),
    ].concat())
}

pub fn pptx() -> Vec<u8> {
    let shape = |kind: &str, paragraphs: &str| {
        format!(
            "<p:sp><p:nvSpPr><p:nvPr><p:ph type=\"{kind}\"/></p:nvPr></p:nvSpPr><p:txBody>{paragraphs}</p:txBody></p:sp>"
        )
    };
    let paragraph = |text: &str| format!("<a:p><a:r><a:t>{text}</a:t></a:r></a:p>");
    let slide = |shapes: &str| {
        format!("<p:sld xmlns:p=\"p\" xmlns:a=\"a\"><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>")
    };
    let cell = |text: &str| format!("<a:tc><a:txBody>{}</a:txBody></a:tc>", paragraph(text));
    let table = format!(
        "<p:graphicFrame><a:tbl><a:tr>{}{}</a:tr><a:tr>{}{}</a:tr></a:tbl></p:graphicFrame>",
        cell("Pier"),
        cell("Length"),
        cell("Nordby"),
        cell("90 m")
    );
    let second = [
        shape("title", &paragraph("Piers")),
        format!(
            "<p:grpSp>{}</p:grpSp>",
            shape(
                "body",
                &format!("{}<a:p><a:pPr lvl=\"1\"/><a:r><a:t>long</a:t></a:r></a:p>", paragraph("All are"))
            )
        ),
        table,
        shape("sldNum", &paragraph("2")),
    ]
    .concat();
    let notes = slide(&shape("body", &paragraph("Mention the dredging.")));
    let presentation = format!(
        "<p:presentation xmlns:p=\"p\" xmlns:r=\"{RELATIONS}\"><p:sldIdLst><p:sldId id=\"256\" r:id=\"b\"/><p:sldId id=\"257\" r:id=\"a\"/></p:sldIdLst></p:presentation>"
    );
    archive(&[
        ("_rels/.rels", &relations(&[("r1", "officeDocument", "ppt/presentation.xml")])),
        ("ppt/presentation.xml", &presentation),
        (
            "ppt/_rels/presentation.xml.rels",
            &relations(&[("a", "slide", "slides/slide1.xml"), ("b", "slide", "slides/slide2.xml")]),
        ),
        ("ppt/slides/slide2.xml", &slide(&shape("ctrTitle", &paragraph("The harbour")))),
        ("ppt/slides/slide1.xml", &slide(&second)),
        ("ppt/slides/_rels/slide1.xml.rels", &relations(&[("n", "notesSlide", "../notesSlides/n1.xml")])),
        ("ppt/notesSlides/n1.xml", &notes),
    ])
}

/// A workbook with one sheet of these rows (XML).
pub fn xlsx_of(rows: &str) -> Vec<u8> {
    let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
    archive(&[
        (
            "[Content_Types].xml",
            "<Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\"/>",
        ),
        ("_rels/.rels", &relations(&[("r1", "officeDocument", "xl/workbook.xml")])),
        (
            "xl/workbook.xml",
            &format!(
                "<workbook xmlns=\"{main}\" xmlns:r=\"{RELATIONS}\"><sheets><sheet name=\"Fares 2026\" sheetId=\"1\" r:id=\"s1\"/></sheets></workbook>"
            ),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            &relations(&[("s1", "worksheet", "worksheets/sheet1.xml"), ("s2", "styles", "styles.xml")]),
        ),
        (
            "xl/styles.xml",
            &format!(
                "<styleSheet xmlns=\"{main}\"><cellXfs><xf numFmtId=\"0\"/><xf numFmtId=\"14\"/></cellXfs></styleSheet>"
            ),
        ),
        (
            "xl/worksheets/sheet1.xml",
            &format!("<worksheet xmlns=\"{main}\"><sheetData>{rows}</sheetData></worksheet>"),
        ),
    ])
}

pub fn xlsx() -> Vec<u8> {
    let text =
        |place: &str, text: &str| format!("<c r=\"{place}\" t=\"inlineStr\"><is><t>{text}</t></is></c>");
    let number = |place: &str, number: &str| format!("<c r=\"{place}\"><v>{number}</v></c>");
    xlsx_of(
        &[
            format!("<row r=\"1\">{}</row>", text("B1", "All prices in euros")),
            format!("<row r=\"3\">{}{}{}</row>", text("B3", "Who"), text("D3", "Price"), text("E3", "Since")),
            format!(
                "<row r=\"4\">{}{}<c r=\"E4\" s=\"1\"><v>45943</v></c></row>",
                text("B4", "Adult"),
                number("D4", "0.30000000000000004")
            ),
            format!(
                "<row r=\"6\">{}{}<c r=\"E6\" s=\"1\"><v>45944.5</v></c></row>",
                text("B6", "Child"),
                number("D6", "12")
            ),
        ]
        .concat(),
    )
}

/// A container of the OpenDocument kind with this body.
pub fn opendocument(kind: &str, body: &str) -> Vec<u8> {
    let spaces = "xmlns:office=\"o\" xmlns:text=\"t\" xmlns:table=\"b\" xmlns:draw=\"d\" xmlns:style=\"s\" xmlns:presentation=\"p\"";
    archive(&[
        ("mimetype", &format!("application/vnd.oasis.opendocument.{kind}")),
        (
            "content.xml",
            &format!(
                "<office:document-content {spaces}><office:automatic-styles><text:list-style style:name=\"L1\">\
                 <text:list-level-style-number text:level=\"1\"/></text:list-style></office:automatic-styles>\
                 <office:body>{body}</office:body></office:document-content>"
            ),
        ),
        ("meta.xml", "<m xmlns:dc=\"d\"><dc:title>Ferry</dc:title></m>"),
        ("META-INF/manifest.xml", "<manifest/>"),
    ])
}

pub fn odt() -> Vec<u8> {
    opendocument(
        "text",
        "<office:text><text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>\
         <text:h text:outline-level=\"2\">Fares</text:h>\
         <text:p>A<text:s text:c=\"2\"/><text:span>bicycle</text:span><text:note><text:note-citation>1</text:note-citation>\
         <text:note-body><text:p>Folded ones are free.</text:p></text:note-body></text:note> costs\n3 euros.</text:p>\
         <text:list text:style-name=\"L1\"><text:list-item><text:p>one</text:p><text:list><text:list-item><text:p>deeper</text:p>\
         </text:list-item></text:list></text:list-item><text:list-item><text:p>two</text:p></text:list-item></text:list>\
         <table:table><table:table-row><table:table-cell><text:p>Who</text:p></table:table-cell><table:table-cell><text:p>Price</text:p></table:table-cell></table:table-row>\
         <table:table-row><table:table-cell><text:p>Child</text:p></table:table-cell><table:table-cell><text:p>0</text:p></table:table-cell></table:table-row></table:table>\
         </office:text>",
    )
}

pub fn ods() -> Vec<u8> {
    let cell = |text: &str| format!("<table:table-cell><text:p>{text}</text:p></table:table-cell>");
    opendocument(
        "spreadsheet",
        &format!(
            "<office:spreadsheet><table:table table:name=\"Fares\"><table:table-row>{}<table:table-cell table:number-columns-repeated=\"3\"/>{}</table:table-row>\
             <table:table-row table:number-rows-repeated=\"2\">{}<table:covered-table-cell table:number-columns-repeated=\"3\"/>{}<table:table-cell table:number-columns-repeated=\"16000\"/></table:table-row>\
             <table:table-row table:number-rows-repeated=\"1000000\"><table:table-cell table:number-columns-repeated=\"16384\"/></table:table-row>\
             </table:table></office:spreadsheet>",
            cell("Who"),
            cell("Price"),
            cell("Child"),
            cell("0")
        ),
    )
}

pub fn odp() -> Vec<u8> {
    opendocument(
        "presentation",
        "<office:presentation><draw:page><draw:frame presentation:class=\"title\"><draw:text-box><text:p>Piers</text:p></draw:text-box></draw:frame>\
         <draw:frame><draw:text-box><text:p>All are long.</text:p></draw:text-box></draw:frame></draw:page></office:presentation>",
    )
}

pub fn epub() -> Vec<u8> {
    let page = |text: &str| {
        format!(
            "<?xml version=\"1.0\"?><html xmlns=\"http://www.w3.org/1999/xhtml\"><head><title>x</title></head><body>{text}</body></html>"
        )
    };
    archive(&[
        ("mimetype", "application/epub+zip"),
        (
            "META-INF/container.xml",
            "<container><rootfiles><rootfile full-path=\"OEBPS/book.opf\"/></rootfiles></container>",
        ),
        (
            "OEBPS/book.opf",
            "<package><metadata xmlns:dc=\"d\"><dc:title>The Ferry</dc:title></metadata><manifest>\
             <item id=\"c\" href=\"cover.xhtml\"/><item id=\"two\" href=\"text/b%20b.xhtml\"/><item id=\"one\" href=\"a.xhtml\"/></manifest>\
             <spine><itemref idref=\"c\"/><itemref idref=\"one\"/><itemref idref=\"two\"/></spine></package>",
        ),
        ("OEBPS/cover.xhtml", &page("<img src='cover.png'/>")),
        ("OEBPS/a.xhtml", &page("<h1>Morning</h1><p>It leaves at nine.</p>")),
        ("OEBPS/text/b b.xhtml", &page("<h1>Evening</h1><p>It comes back.</p>")),
    ])
}

pub fn eml() -> Vec<u8> {
    "From: =?UTF-8?Q?J=C3=B8rn?= <jorn@ferry.example>\r\nTo: crew@ferry.example\r\nSubject: Gates\r\n\
     Date: Mon, 5 Jan 2026 10:00:00 +0100\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\n\
     --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
     The caf=E9 opens.\r\n\r\nGates close at five.\r\n\
     --b\r\nContent-Type: text/csv; name=\"fares.csv\"\r\nContent-Disposition: attachment; filename=\"fares.csv\"\r\n\r\n\
     Who,Price\r\nChild,0\r\n\
     --b\r\nContent-Type: image/png; name=\"a.png\"\r\nContent-Transfer-Encoding: base64\r\n\
     Content-Disposition: attachment; filename=\"a.png\"\r\n\r\niVBORw0KGgo=\r\n\
     --b\r\nContent-Type: message/rfc822\r\n\r\nFrom: a@b.example\r\nSubject: Inner\r\n\r\nInner words.\r\n--b--\r\n"
        .as_bytes()
        .to_vec()
}

pub fn rtf() -> Vec<u8> {
    br"{\rtf1\ansi{\stylesheet{\s1 heading 1;}}\pard\s1 Fares\par\pard A caf\'e9 ticket costs 3 \u8364?.\par}"
        .to_vec()
}

/// An old compound file whose directory has an entry of this name.
pub fn compound(entry: &str) -> Vec<u8> {
    let mut bytes = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
    bytes.resize(512, 0);
    bytes.extend(entry.encode_utf16().flat_map(u16::to_le_bytes));
    bytes.resize(4096, 0);
    bytes
}

/// Every sample with a name for it.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let page = "<!doctype html><title>T</title><h1>Fares</h1><p>A bicycle costs 3 euros.</p><table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>";
    vec![
        ("a.docx", docx()),
        ("a.pptx", pptx()),
        ("a.xlsx", xlsx()),
        ("a.odt", odt()),
        ("a.ods", ods()),
        ("a.odp", odp()),
        ("a.epub", epub()),
        ("a.eml", eml()),
        ("a.rtf", rtf()),
        ("a.csv", b"Who;Price\nAdult;\"3;50\"\nChild;0\n".to_vec()),
        ("a.json", br#"{"name": "Ferry", "fares": [{"adult": 3.50}, null]}"#.to_vec()),
        ("a.html", page.as_bytes().to_vec()),
        ("a.pdf", crate::documents::pdf("The tower is 40 metres high.")),
    ]
}
