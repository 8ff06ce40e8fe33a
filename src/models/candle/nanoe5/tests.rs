use half::f16;

use super::*;

const HIDDEN: usize = 32;
const INNER: usize = 64;
const LAYERS: usize = 1;
const VOCABULARY: usize = 12;
const PIECES: [(&str, f32); 10] = [
    ("<s>", 0.0),
    ("<pad>", 0.0),
    ("</s>", 0.0),
    ("<unk>", 0.0),
    ("▁", -3.0),
    ("▁sea", -1.0),
    ("fish", -2.0),
    ("é", -4.0),
    ("s", -5.0),
    ("<mask>", 0.0),
];

/// A whole file in the format, with what a test changes of it.
struct File {
    sizes: [i32; 7],
    scores: Vec<f32>,
    replacements: Vec<(u32, Vec<u32>)>,
    tensors: Vec<(String, u8, usize, Vec<u8>)>,
}

impl Default for File {
    fn default() -> Self {
        let mut tensors = vec![tensor("emb.word", 1, VOCABULARY * HIDDEN)];
        for (name, elements) in [("emb.pos", 8), ("emb.type", 2), ("emb.ln.w", 1), ("emb.ln.b", 1)] {
            tensors.push(tensor(name, 0, elements * HIDDEN));
        }
        let square = HIDDEN * HIDDEN;
        for (name, weights, biases) in [
            ("q", square, HIDDEN),
            ("k", square, HIDDEN),
            ("v", square, HIDDEN),
            ("ao", square, HIDDEN),
            ("fi", INNER * HIDDEN, INNER),
            ("fo", INNER * HIDDEN, HIDDEN),
        ] {
            tensors.push(tensor(&format!("l0.{name}.w"), 1, weights));
            tensors.push(tensor(&format!("l0.{name}.b"), 0, biases));
        }
        for name in ["aln.w", "aln.b", "oln.w", "oln.b"] {
            tensors.push(tensor(&format!("l0.{name}"), 0, HIDDEN));
        }
        Self {
            sizes: [HIDDEN, LAYERS, 2, INNER, VOCABULARY, 8, 2].map(|size| size as i32),
            scores: PIECES.iter().map(|(_, score)| *score).collect(),
            replacements: vec![(9, vec![32]), (0x7f, vec![]), (0xfb01, vec![0x66, 0x69])],
            tensors,
        }
    }
}

/// Weight `i` of a Q4_0 tensor is `(i % 16 - 8) / 4`, of another `i / 8`.
fn tensor(name: &str, kind: u8, elements: usize) -> (String, u8, usize, Vec<u8>) {
    let bytes = if kind == 0 {
        (0..elements).flat_map(|i| (i as f32 / 8.0).to_le_bytes()).collect()
    } else {
        let mut block = f16::from_f32(0.25).to_le_bytes().to_vec();
        block.extend((0..16).map(|i| i | i << 4));
        block.repeat(elements / BlockQ4_0::NUMBERS)
    };
    (name.to_owned(), kind, elements, bytes)
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        let mut file = b"E5S1\x01\0\0\0".to_vec();
        let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
        self.sizes.iter().for_each(|size| put(&size.to_le_bytes()));
        put(&1e-12f32.to_le_bytes());
        put(&32i32.to_le_bytes());
        for number in [PIECES.len() as i32, 0, 2, 1, 3] {
            put(&number.to_le_bytes());
        }
        let blob: String = PIECES.iter().map(|(piece, _)| *piece).collect();
        put(&(blob.len() as u64).to_le_bytes());
        let mut offset = 0u32;
        put(&offset.to_le_bytes());
        for (piece, _) in PIECES {
            offset += piece.len() as u32;
            put(&offset.to_le_bytes());
        }
        self.scores.iter().for_each(|score| put(&score.to_le_bytes()));
        put(blob.as_bytes());
        put(&(self.replacements.len() as i32).to_le_bytes());
        let length: usize = self.replacements.iter().map(|(_, to)| 5 + 4 * to.len()).sum();
        put(&(length as u32).to_le_bytes());
        for (from, to) in &self.replacements {
            put(&from.to_le_bytes());
            put(&[to.len() as u8]);
            to.iter().for_each(|c| put(&c.to_le_bytes()));
        }
        put(&(self.tensors.len() as i32).to_le_bytes());
        let directory: usize = self.tensors.iter().map(|(name, ..)| 23 + name.len()).sum();
        let mut place = (file.len() + directory).next_multiple_of(64);
        for (name, kind, elements, bytes) in &self.tensors {
            file.extend_from_slice(&(name.len() as u16).to_le_bytes());
            file.extend_from_slice(name.as_bytes());
            file.push(*kind);
            file.extend_from_slice(&(*elements as u32).to_le_bytes());
            file.extend_from_slice(&(place as u64).to_le_bytes());
            file.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            place = (place + bytes.len()).next_multiple_of(64);
        }
        for (.., bytes) in &self.tensors {
            file.resize(file.len().next_multiple_of(64), 0);
            file.extend_from_slice(bytes);
        }
        file
    }
}

/// What is said of a file that was changed so.
fn refused(change: impl FnOnce(&mut File)) -> String {
    let mut file = File::default();
    change(&mut file);
    Checkpoint::parse(&file.bytes()).err().expect("a damaged file was read").to_string()
}

#[test]
fn every_weight_comes_to_its_place() {
    let Checkpoint { config, weights, .. } = Checkpoint::parse(&File::default().bytes()).unwrap();
    assert_eq!(
        (config.hidden_size, config.num_hidden_layers, config.num_attention_heads),
        (HIDDEN, LAYERS, 2)
    );
    assert_eq!((config.vocab_size, config.layer_norm_eps), (VOCABULARY, 1e-12));
    assert_eq!((weights.position.len(), weights.token_type.len()), (8 * HIDDEN, HIDDEN));
    assert_eq!(weights.position[9], 9.0 / 8.0);
    let layer = &weights.layers[0];
    assert_eq!((layer.intermediate.weight.len(), layer.intermediate.bias.len()), (INNER * HIDDEN, INNER));
    // Half byte j of a block is both weight j and weight j + 16.
    assert_eq!(layer.output.weight[..3], [-2.0, -1.75, -1.5]);
    assert_eq!(layer.output.weight[15..18], [1.75, -2.0, -1.75]);
}

#[test]
fn word_rows_stay_in_their_blocks() {
    let words = Checkpoint::parse(&File::default().bytes()).unwrap().weights.word;
    assert!(matches!(words, EmbeddingTable::Q4_0(_)));
    assert_eq!(words.rows(HIDDEN), VOCABULARY);
    let mut row = [0.0; HIDDEN];
    words.read(VOCABULARY - 1, &mut row);
    assert_eq!((row[0], row[17]), (-2.0, -1.75));
}

#[test]
fn the_tokenizer_normalises_and_knows_its_special_tokens() {
    let tokenizer = Checkpoint::parse(&File::default().bytes()).unwrap().tokenizer;
    let ids = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    assert_eq!(ids("sea\t  \u{7f}sea ﬁsh"), ids("sea sea fish"));
    assert_eq!(ids("  seafish "), [0, 5, 6, 2]);
    // A letter with a combining accent is composed; what no piece has is unknown.
    assert_eq!(ids("seae\u{301}"), [0, 5, 7, 2]);
    assert_eq!(ids("seaX"), [0, 5, 3, 2]);
    assert_eq!(ids(""), [0, 2]);
    assert_eq!(ids("sea <mask>"), [0, 5, 9, 2]);
}

#[test]
fn a_removed_character_at_the_start_harms_nothing() {
    let tokenizer = Checkpoint::parse(&File::default().bytes()).unwrap().tokenizer;
    for text in ["\u{7f}sea", "\u{7f}", "\u{7f}\u{7f}ﬁsh\u{7f}", "\t", "é\u{7f}"] {
        let encoding = tokenizer.encode_char_offsets(text, true).unwrap();
        let length = text.chars().count();
        assert!(
            encoding.get_offsets().iter().all(|(start, stop)| start <= stop && *stop <= length),
            "{text:?}"
        );
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let file = File::default().bytes();
    for length in 0..file.len() {
        assert!(Checkpoint::parse(&file[..length]).is_err(), "{length}");
    }
}

/// Every number in front of the tensors, made extreme: read or refused, never a panic.
#[test]
fn wild_numbers_are_survived() {
    let file = File::default().bytes();
    let tensors = file.len() - File::default().tensors.iter().map(|(.., bytes)| bytes.len()).sum::<usize>();
    for position in 0..tensors.min(file.len() - 4) {
        for wild in [0u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let mut file = file.clone();
            file[position..position + 4].copy_from_slice(&wild.to_le_bytes());
            if let Ok(read) = Checkpoint::parse(&file) {
                read.tokenizer.encode("sea ﬁsh\t", true).unwrap();
            }
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    assert!(refused(|file| file.sizes[0] = 33).contains("make no encoder"));
    assert!(refused(|file| file.sizes[2] = 0).contains("make no encoder"));
    assert!(refused(|file| file.sizes[3] = -1).contains("the feed-forward size is -1"));
    assert!(refused(|file| file.sizes[4] = 9).contains("number of pieces is 10"));
    assert!(refused(|file| file.sizes[1] = 2).contains("it has 21 tensors, its header asks for 37"));
    assert!(refused(|file| file.sizes[5] = 16).contains("`emb.pos` has 256 weights"));
    assert!(refused(|file| file.scores[5] = f32::NAN).contains("piece 5"));
    assert!(refused(|file| file.replacements.push((0xd800, vec![]))).contains("normaliser is damaged"));
    assert!(refused(|file| file.replacements.push((0xe9, vec![0]))).contains("U+0000"));
    assert!(refused(|file| file.replacements.push((9, vec![]))).contains("normaliser is damaged"));
    assert!(refused(|file| file.tensors[0].1 = 2).contains("unknown type 2"));
    assert!(refused(|file| file.tensors[0].3.truncate(18)).contains("does not fit its weights"));
    assert!(refused(|file| file.tensors[1].0 = "emb.type".into()).contains("there twice"));
    assert!(refused(|file| file.tensors[1].0 = "emb.poz".into()).contains("`emb.pos` is missing"));
    let infinite = f16::INFINITY.to_le_bytes();
    assert!(refused(|file| file.tensors[0].3[..2].copy_from_slice(&infinite)).contains("no number"));
    assert!(
        refused(|file| file.tensors[1].3[..4].copy_from_slice(&f32::NAN.to_le_bytes())).contains("no number")
    );
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let mut file = File::default().bytes();
    // The second tensor's bytes become the whole file's.
    let name = file.windows(7).position(|window| window == b"emb.pos").unwrap();
    let elements = (file.len() as u32 / 4).to_le_bytes();
    file[name + 8..name + 12].copy_from_slice(&elements);
    file[name + 12..name + 20].copy_from_slice(&0u64.to_le_bytes());
    let bytes = u64::from(file.len() as u32 / 4 * 4).to_le_bytes();
    file[name + 20..name + 28].copy_from_slice(&bytes);
    let told = Checkpoint::parse(&file).err().unwrap().to_string();
    assert!(told.contains("reaches beyond the file"), "{told}");
}

#[test]
fn an_empty_or_foreign_file_is_told_from_a_checkpoint() {
    for file in [b"".as_slice(), b"GGUF", b"E5S1", b"E5S1\x02\0\0\0"] {
        assert!(Checkpoint::parse(file).is_err());
    }
}
